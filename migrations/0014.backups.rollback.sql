DROP TABLE backup_fence;
