"""The accuracy gate, which decides whether a precision is accurate enough to serve. It builds and promotes nothing."""
