"""Makes rows of tasks from Python libraries that carry facts as data.

They are an extra of the package: `pip install '.[knowledge]'`. No module here
imports TensorFlow or seqio, nor a library of the extra before rows are made.
"""
