"""Fitting codes, coefficients and networks to the images of an object."""

from object_pursuit.fit.fitter import Fitter, StepFigures
from object_pursuit.fit.loop import FitResult, fit_object
from object_pursuit.fit.options import BASE, COEFFICIENTS, ONE_SHOT, FitOptions
from object_pursuit.fit.rehearsal import Rehearsal

__all__ = ["BASE", "COEFFICIENTS", "ONE_SHOT", "FitOptions", "FitResult", "Fitter", "Rehearsal", "StepFigures", "fit_object"]
