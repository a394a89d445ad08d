"""The audit log: who changed what, written in the transaction of the change, and chained so that tampering is seen.

Rows are appended by anybody at any time; the application's database role may neither alter nor delete one. Chaining
each row to the one before would make all writers wait for each other, and nobody knows the order in which rows become
visible before they do. So nothing is chained while it is written. Each minute a job seals what was committed since: it
hashes every row that no seal covers (``audit_sealed_rows``), and the batch of those hashes together with the hash of
the seal before (``audit_seals``). Only seals form the chain, and only that one job ever waits for another of its kind.

A row gets its id (a UUIDv7) just before it is inserted, and no transaction of ours lives for ``sealing.LATE_BY``. So
the job looks back by that much for rows that were committed late, and a row without a seal that is older than that was
not written by this program.

``zenzefi audit verify`` hashes everything anew, and names each row that was altered, is missing or was inserted, and
each seal that does not fit. Whoever owns the database could make the whole chain anew from some row on. The hash of the
newest seal gives them away to everybody who kept it: the job logs each (``audit_sealed``), ``--anchor`` compares one.
"""
