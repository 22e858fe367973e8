"""The command line: ``python -m sslkern {info,bench,verify,train,model}``."""
