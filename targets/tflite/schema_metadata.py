"""TFLite Metadata as data: what a model says of its inputs and outputs to those who use it. `schema` reads this.

Facts of metadata_schema.fbs (version 1.5.0, file identifier M001), which TensorFlow Lite's Task Library, MediaPipe and
Android Studio read; notation as in `schema_tables`.
"""

ENUMS = """
AssociatedFileType:int8  UNKNOWN DESCRIPTIONS TENSOR_AXIS_LABELS TENSOR_VALUE_LABELS TENSOR_AXIS_SCORE_CALIBRATION
    VOCABULARY SCANN_INDEX_FILE
ColorSpaceType:int8  UNKNOWN RGB GRAYSCALE
BoundingBoxType:int8  UNKNOWN BOUNDARIES UPPER_LEFT CENTER
CoordinateType:int8  RATIO PIXEL
ScoreTransformationType:int8  IDENTITY LOG INVERSE_LOGISTIC
"""

UNIONS = """
ContentProperties  FeatureProperties ImageProperties BoundingBoxProperties AudioProperties
ProcessUnitOptions  NormalizationOptions ScoreCalibrationOptions ScoreThresholdingOptions BertTokenizerOptions
    SentencePieceTokenizerOptions RegexTokenizerOptions
"""

TABLES = """
ModelMetadata  name:string description:string version:string subgraph_metadata:[SubGraphMetadata] author:string
    license:string associated_files:[AssociatedFile] min_parser_version:string
SubGraphMetadata  name:string description:string input_tensor_metadata:[TensorMetadata]
    output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile] input_process_units:[ProcessUnit]
    output_process_units:[ProcessUnit] input_tensor_groups:[TensorGroup] output_tensor_groups:[TensorGroup]
    custom_metadata:[CustomMetadata]
TensorMetadata  name:string description:string dimension_names:[string] content:Content process_units:[ProcessUnit]
    stats:Stats associated_files:[AssociatedFile]
AssociatedFile  name:string description:string type:AssociatedFileType locale:string version:string
Content  content_properties:ContentProperties range:ValueRange
ValueRange  min:int32 max:int32
FeatureProperties
ImageProperties  color_space:ColorSpaceType default_size:ImageSize
ImageSize  width:uint32 height:uint32
BoundingBoxProperties  index:[uint32] type:BoundingBoxType coordinate_type:CoordinateType
AudioProperties  sample_rate:uint32 channels:uint32
ProcessUnit  options:ProcessUnitOptions
NormalizationOptions  mean:[float32] std:[float32]
ScoreCalibrationOptions  score_transformation:ScoreTransformationType default_score:float32
ScoreThresholdingOptions  global_score_threshold:float32
BertTokenizerOptions  vocab_file:[AssociatedFile]
SentencePieceTokenizerOptions  sentencePiece_model:[AssociatedFile] vocab_file:[AssociatedFile]
RegexTokenizerOptions  delim_regex_pattern:string vocab_file:[AssociatedFile]
Stats  max:[float32] min:[float32]
TensorGroup  name:string tensor_names:[string]
CustomMetadata  name:string data:[uint8]
"""
