import pytest

from kdjax.data import sources
from kdjax.types import UserError


@pytest.fixture
def assert_error():
    """`assert_error(name, message, **kwargs)`: loading fails with a one-line UserError."""

    def check(name, message, **kwargs):
        with pytest.raises(UserError, match=message) as caught:
            sources.load(name, **kwargs)
        assert "\n" not in str(caught.value)

    return check
