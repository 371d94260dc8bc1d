"""The pursuit: a stream of objects of unknown identity, each recognised, expressed by bases, or learned as a new base."""

from object_pursuit.pursuit.loop import Pursuit, StartPoint
from object_pursuit.pursuit.options import PursuitOptions, published_options
from object_pursuit.pursuit.records import Round

__all__ = ["Pursuit", "PursuitOptions", "Round", "StartPoint", "published_options"]
