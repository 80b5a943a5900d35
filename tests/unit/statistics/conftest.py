"""What tests of tables over several attributes share."""

import pandas as pd
import pytest


@pytest.fixture
def make_templates():
    """Items of twenty templates an attribute, two in each context."""

    def make(*attributes: str) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {
                    "item_id": f"{name}:{4 * template + item}",
                    "attribute": name,
                    "context_condition": "ambig" if item < 2 else "disambig",
                    "template": f"{name}:{template}",
                }
                for name in attributes
                for template in range(20)
                for item in range(4)
            ]
        )

    return make
