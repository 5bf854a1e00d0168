"""A Ray cluster of several nodes on this machine, for as long as its standard input is open.

Arguments: the cores of each node, the head's first. Prints the cluster's address; each line of input kills a node (not
the head), as a machine that loses its power dies.
"""

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    head, *others = map(int, sys.argv[1:])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head})
    nodes = [cluster.add_node(num_cpus=cores) for cores in others]
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
