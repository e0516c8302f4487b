"""Phi by name: the one that was used longest ago goes."""

import pytest

from hypertuning.serving.failures import Failure
from hypertuning.serving.store import Store


def test_what_was_used_last_is_kept():
  store = Store(2)
  first, second, third = object(), object(), object()
  names = [store.put(first), store.put(second, 'b')]
  assert store.get(names[0]) is first
  store.put(third)
  assert len(store) == 2
  assert store.get(names[0]) is first
  with pytest.raises(Failure, match="'b' is not here. The 2 that") as caught:
    store.get('b')
  assert caught.value.status == 404


def test_a_name_is_given_to_one_phi():
  store = Store(2)
  store.put(1, 'a')
  store.put(2, 'a')
  assert store.get('a') == 2 and len(store) == 1
