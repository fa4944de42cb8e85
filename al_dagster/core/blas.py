"""How many threads the linear algebra of NumPy and SciPy takes."""

from contextlib import AbstractContextManager


def one_blas_thread() -> AbstractContextManager[object]:
    """Have matrices multiplied by one thread while images are labelled, a process-wide limit.

    The images themselves fill the processors, a thread each; the threads of BLAS would only spin beside them. With
    one, results do not depend on the number of processors either. Threads of PyTorch are not limited.
    """
    from threadpoolctl import threadpool_limits

    limit: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limit
