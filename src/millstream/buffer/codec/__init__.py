"""The codec of events: rows as producers send them, payloads as the log keeps them, columns as the layers read them."""
