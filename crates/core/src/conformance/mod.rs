//! One test suite per storage port, run by every backend in one line.
