"""Names that Designer's packages import and that newer versions of Python, pandas and numpy have dropped.

Python runs this file at its start, in the environment of Designer models only.
"""

import collections
import collections.abc

import numpy
import pandas.api.types
from pandas.core.arrays import integer
from pandas.core.dtypes import common

for name in collections.abc.__all__:
    if not hasattr(collections, name):
        setattr(collections, name, getattr(collections.abc, name))  # gone since Python 3.10

for kind in (bool, int, float, object, str):
    if kind.__name__ not in vars(numpy):
        setattr(numpy, kind.__name__, kind)  # aliases until numpy 1.24

integer._IntegerDtype = integer.IntegerDtype  # renamed in pandas 1.4
common.is_string_like_dtype = lambda dtype: (  # dropped in pandas 1.3
    pandas.api.types.is_string_dtype(dtype) and not pandas.api.types.is_object_dtype(dtype)
)
