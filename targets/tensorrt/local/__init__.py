"""`tensorrt`: engines for the GPU of this machine, built, run and compared here."""
