import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from al_dagster.core.blas import one_blas_thread


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_meanwhile_matrices_are_multiplied_by_one_thread_and_afterwards_as_before():
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with one_blas_thread():
            assert blas_threads() == {1}
        assert blas_threads() == before
