"""The command line: ``python -m sslkern {info,bench,scaling,verify,train,model}``."""
