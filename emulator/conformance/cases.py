"""All cases: importing this fills `suite.ALL`."""

import cases_control  # noqa: F401
import cases_elementwise  # noqa: F401
import cases_matrix  # noqa: F401
import cases_order  # noqa: F401
