"""Running a package: TVM's runtime library without its compiler."""
