"""What moves arrays, one module per framework; each satisfies `batchnorm._core.engine.Engine`."""
