DROP FUNCTION make_partitions_ahead();
