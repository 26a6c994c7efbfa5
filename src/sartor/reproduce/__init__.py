"""Published claims, each run at laptop scale against its baseline."""
