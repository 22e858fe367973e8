"""Tests of methods, a package because operators have tests of the same names."""
