"""Delivery: the scheduler, the SMTP and LMTP client, Maildir, notices."""
