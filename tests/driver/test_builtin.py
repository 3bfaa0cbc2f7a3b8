"""Native functions that are called as built-in functions of Python: what they are bound to, and how long that lives."""

from __future__ import annotations

import ctypes
import gc
import weakref

import numpy as np
import pytest

from rlx.driver.array_object import LAYOUT_HOLDS
from rlx.driver.builtin import METHOD_WORDS, NO_ARGUMENT, ONE_ARGUMENT, address_of, built_in

pytestmark = pytest.mark.skipif(not LAYOUT_HOLDS, reason="this interpreter has no C API of CPython's")


def test_a_function_is_called_with_its_owner_and_the_argument() -> None:
    owner = np.arange(METHOD_WORDS + 2)
    call = built_in(address_of("PyNumber_Add"), ONE_ARGUMENT, owner, 1)
    owner[[0, -1]] = 5, 7
    got = call(1)
    assert got[0] == 6 and got[-1] == 8


def test_an_exception_of_the_function_is_raised() -> None:
    call = built_in(address_of("PyObject_GetAttr"), ONE_ARGUMENT, np.zeros(METHOD_WORDS, np.int64), 0)
    assert call("ndim") == 1
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        call("nothing_of_this_name")


def test_a_function_takes_as_many_arguments_as_it_says() -> None:
    owner = np.zeros(2 * METHOD_WORDS, np.int64)
    none = built_in(address_of("PyObject_Repr"), NO_ARGUMENT, owner, 0)
    one = built_in(address_of("PyNumber_Add"), ONE_ARGUMENT, owner, METHOD_WORDS)
    assert none() == repr(owner)
    with pytest.raises(TypeError):
        none(1)
    with pytest.raises(TypeError):
        one()


def test_a_function_keeps_its_owner_and_goes_with_it() -> None:
    owner = np.zeros(METHOD_WORDS, np.int64)
    call, watched = built_in(address_of("PyObject_Repr"), NO_ARGUMENT, owner, 0), weakref.ref(owner)
    del owner
    gc.collect()
    assert watched() is not None and call().startswith("array(")
    del call
    gc.collect()
    assert watched() is None


def test_every_call_gives_a_reference_of_its_own() -> None:
    call = built_in(address_of("PyObject_Type"), NO_ARGUMENT, np.zeros(METHOD_WORDS, np.int64), 0)
    before = ctypes.c_ssize_t.from_address(id(np.ndarray)).value
    for _ in range(1000):
        assert call() is np.ndarray
    assert abs(ctypes.c_ssize_t.from_address(id(np.ndarray)).value - before) < 10
