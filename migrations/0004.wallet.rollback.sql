DROP TABLE idempotency_keys;
DROP TABLE ledger_postings;
DROP FUNCTION check_transaction_is_balanced();
DROP TABLE ledger_transactions;
DROP TABLE ledger_accounts;
