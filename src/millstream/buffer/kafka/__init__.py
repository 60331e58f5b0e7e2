"""The log on Apache Kafka: every topic of a project is one of the cluster's, shared by processes of any hosts."""
