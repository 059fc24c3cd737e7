"""The .tflite format as data: enumerations, unions, and the tables a model is made of. `schema` reads this.

Facts of TensorFlow Lite's schema (schema.fbs, version 3, as LiteRT 2.3.0 reads it); its names, so its documentation
applies. Options tables of the operators are in `schema_options`.
"""

ENUMS = """
TensorType:int8  FLOAT32 FLOAT16 INT32 UINT8 INT64 STRING BOOL INT16 COMPLEX64 INT8 FLOAT64 COMPLEX128 UINT64 RESOURCE
    VARIANT UINT32 UINT16 INT4 BFLOAT16 INT2 UINT4 FLOAT8_E4M3FN FLOAT8_E5M2
DimensionType:int8  DENSE SPARSE_CSR
StablehloPrecisionConfig:uint32  DEFAULT HIGH HIGHEST
StablehloComparisonDirection:uint32  STABLEHLO_COMPARISON_DIRECTION_EQ STABLEHLO_COMPARISON_DIRECTION_NE
    STABLEHLO_COMPARISON_DIRECTION_GE STABLEHLO_COMPARISON_DIRECTION_GT STABLEHLO_COMPARISON_DIRECTION_LE
    STABLEHLO_COMPARISON_DIRECTION_LT
StablehloComparisonType:uint32  STABLEHLO_COMPARISON_TYPE_NOTYPE STABLEHLO_COMPARISON_TYPE_FLOAT
    STABLEHLO_COMPARISON_TYPE_FLOAT_TOTAL_ORDER STABLEHLO_COMPARISON_TYPE_SIGNED STABLEHLO_COMPARISON_TYPE_UNSIGNED
RngAlgorithm:int8  DEFAULT PHILOX THREEFRY
Padding:int8  SAME VALID
ActivationFunctionType:int8  NONE RELU RELU_N1_TO_1 RELU6 TANH SIGN_BIT
LSHProjectionType:int8  UNKNOWN SPARSE DENSE
FullyConnectedOptionsWeightsFormat:int8  DEFAULT SHUFFLED4x16INT8
LSTMKernelType:int8  FULL BASIC
CombinerType:int8  SUM MEAN SQRTN
MirrorPadMode:int8  REFLECT SYMMETRIC
ReduceWindowFunction:int32  UNSUPPORTED ADD MUL MINIMUM MAXIMUM ALL ANY
CustomOptionsFormat:int8  FLEXBUFFERS
"""
"""`Name:storage`, then its values: 0, 1, 2... unless given."""

UNIONS = """
QuantizationDetails  CustomQuantization BlockwiseQuantization MultiAxisQuantization
SparseIndexVector  Int32Vector Uint16Vector Uint8Vector
"""
"""`Name`, then its tables, numbered from 1; 0 is none."""

TABLES = """
Model  version:uint32 operator_codes:[OperatorCode] subgraphs:[SubGraph] description:string buffers:[Buffer]
    metadata_buffer:[int32] metadata:[Metadata] signature_defs:[SignatureDef]
    external_buffer_groups:[ExternalBufferGroup] external_buffers:[ExternalBuffer]
OperatorCode  deprecated_builtin_code:int8 custom_code:string version:int32=1 builtin_code:BuiltinOperator
SubGraph  tensors:[Tensor] inputs:[int32] outputs:[int32] operators:[Operator] name:string
    debug_metadata_index:int32=-1
Tensor  shape:[int32] type:TensorType buffer:uint32 name:string quantization:QuantizationParameters is_variable:bool
    sparsity:SparsityParameters shape_signature:[int32] has_rank:bool variant_tensors:[VariantSubType]
    external_buffer:uint32
Operator  opcode_index:uint32 inputs:[int32] outputs:[int32] builtin_options:BuiltinOptions custom_options:[uint8]
    custom_options_format:CustomOptionsFormat mutating_variable_inputs:[bool] intermediates:[int32]
    large_custom_options_offset:uint64 large_custom_options_size:uint64 builtin_options_2:BuiltinOptions2
    debug_metadata_index:int32=-1
Buffer  data:[uint8] offset:uint64 size:uint64
Metadata  name:string buffer:uint32
SignatureDef  inputs:[TensorMap] outputs:[TensorMap] signature_key:string - subgraph_index:uint32
TensorMap  name:string tensor_index:uint32
QuantizationParameters  min:[float32] max:[float32] scale:[float32] zero_point:[int64] details:QuantizationDetails
    quantized_dimension:int32
CustomQuantization  custom:[uint8]
BlockwiseQuantization  scales:int32 zero_points:int32 block_size:int32 block_shape:[int32]
MultiAxisQuantization  scales:int32 zero_points:int32 block_size:int32 quantized_dimensions:[int32]
SparsityParameters  traversal_order:[int32] block_map:[int32] dim_metadata:[DimensionMetadata]
DimensionMetadata  format:DimensionType dense_size:int32 array_segments:SparseIndexVector
    array_indices:SparseIndexVector
Int32Vector  values:[int32]
Uint16Vector  values:[uint16]
Uint8Vector  values:[uint8]
VariantSubType  shape:[int32] type:TensorType has_rank:bool
ExternalBufferGroup  name:string
ExternalBuffer  id:uint32 group:uint32 offset:uint64 length:uint64 packing:string
"""
"""`Name`, then `field:kind=default` for slots 0, 1, 2...; `-` is a slot no longer used; a union takes two (its type first)."""
