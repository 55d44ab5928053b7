"""Load tests of a server over HTTP: planned requests, measured answers, defined figures."""
