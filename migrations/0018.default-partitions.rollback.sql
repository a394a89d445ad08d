DROP FUNCTION empty_default_partitions();
DROP FUNCTION move_default_rows(regclass, timestamptz);
DROP FUNCTION month_of_key(text, regtype);
