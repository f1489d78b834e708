"""The tests: a package, so that another project's `tests` in an interpreter's packages is not taken for them."""
