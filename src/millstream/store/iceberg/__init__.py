"""The offline store on Iceberg tables: a SQLite catalog and a local folder, or any PyIceberg catalog by setting."""
