"""Version of the distribution; bumped together with every other member while below 1.0."""

__version__ = "0.1.0"
