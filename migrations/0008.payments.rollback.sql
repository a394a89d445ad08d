DROP TABLE payment_events;
DROP TABLE payments;
DROP FUNCTION refuse_unsettling();
