"""Running a package. Imports nothing of the compiler."""
