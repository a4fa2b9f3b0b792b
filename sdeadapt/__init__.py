"""Says, with error bars, whether a stochastic differential equation is a valid model of an optimizer."""
