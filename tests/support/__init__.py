"""What the tests share: servers, processes, people."""
