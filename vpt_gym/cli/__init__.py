"""The command line `vpt-gym`: reads arguments, calls the library, prints what it says."""
