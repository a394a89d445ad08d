"""Mail to users: written with what it tells of in one transaction, sent by a job."""
