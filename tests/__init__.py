"""The tests, in folders that mirror the package; what they share stands in helpers/.

attention, gradients   the functions over queries, keys and values; their pullbacks
scores, categories     scores with parameters; draws from categories
regression, blocks     kernel regression; self- and multi-head attention, memory, hierarchies
cache                  keys and values for generation: in pages, files and threads
inputs                 what every function takes, refuses, and leaves alone
runtime                threads, processes, signals, memory
engine, kernels        the compiled kernels by Python; the C++ tests of the engine
integrations           torch, transformers, onnx, scikit-learn, pictures
cli, examples          the command line; the scripts of examples/
packaging              what is installed, and the rules of the sources
site                   every public name has its page; the built documentation in a browser
fuzz                   the fuzzer, a command of its own: python tests/fuzz
"""
