"""DAVIS-C: the 14 corruptions of DAVIS 2017 val at three strengths (spec section 5), made from clean frames."""
