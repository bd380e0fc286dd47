"""What a pruned matrix is: structures as values, detection, packed formats and their exact sizes. numpy only."""
