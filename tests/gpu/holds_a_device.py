"""Opens, when it is imported, a file that is named as a GPU: what a fork server must not do, planted in a test."""

import os

KEPT = open(os.environ["SCALEBENCH_FAKE_DEVICE"])  # noqa: SIM115  # it stays open on purpose
