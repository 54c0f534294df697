"""ArrayRecord files for tests."""


def write_records(file, examples, keys=("image", "label")):
    """Writes a file of `tf.train.Example`s, from pairs of encoded images and labels."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    writer = ArrayRecordWriter(str(file), "group_size:1")
    for encoded, label in examples:
        example = tf_example_pb2.Example()
        example.features.feature[keys[0]].bytes_list.value.append(encoded)
        example.features.feature[keys[1]].int64_list.value.append(label)
        writer.write(example.SerializeToString())
    writer.close()
