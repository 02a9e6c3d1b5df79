"""The ingestion job: a data set in, passages with vectors in Milvus out."""
