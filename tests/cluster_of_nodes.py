"""A Ray cluster of several nodes on this machine, for as long as its standard input is open.

Arguments: the cores of each node, the head's first. Prints the cluster's address; each line of input kills a node (not
the head), as a machine that loses its power dies.
"""

import os
import sys
import tempfile


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Elsewhere than Ray's own folder, where searches that name no cluster look for one to join.
        os.environ["RAY_TMPDIR"] = folder
        run(*map(int, sys.argv[1:]))


def run(head: int, *others: int) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head})
    nodes = [cluster.add_node(num_cpus=cores) for cores in others]
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
