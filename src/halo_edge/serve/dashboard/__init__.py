"""One page that shows a cluster at work: what it is told, how often, and the page itself."""
