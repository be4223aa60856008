"""The fields of Google's messages: a table, and nothing else.

Owns which fields each message of the Developer API has, and of which type each is. Written down from Google's published
reference, its official clients and refusals that users met; what is not in the table is refused with ``Cannot find
field``. It must not know what fields mean, and no client may read it: a table that both sides share proves nothing.

A line is a message: its name, then ``field:type`` pairs. Types are ``s`` string, ``i`` int32, ``l`` int64, ``f`` float,
``d`` double, ``b`` bool, ``y`` bytes, ``e`` an enumeration (``e=Name`` one whose values are
below), ``x`` anything (the user's own), or the name of another
message; ``[]`` after a type says that it is a list, ``{}`` that it is a map with strings as keys.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_TEXT: Final = """
GenerateContentRequest model:s contents:Content[] systemInstruction:Content safetySettings:SafetySetting[]
  tools:Tool[] toolConfig:ToolConfig generationConfig:GenerationConfig labels:x cachedContent:s serviceTier:e store:b
  continuationToken:y
EmbedContentRequest model:s content:Content taskType:e=TaskType title:s outputDimensionality:i
  embedContentConfig:EmbedContentConfig
EmbedContentConfig taskType:e=TaskType title:s outputDimensionality:i autoTruncate:b documentOcr:b
  audioTrackExtraction:b
BatchEmbedContentsRequest requests:EmbedContentRequest[]
CountTokensRequest model:s contents:Content[] generateContentRequest:GenerateContentRequest
CachedContent name:s model:s displayName:s contents:Content[] systemInstruction:Content tools:Tool[]
  toolConfig:ToolConfig ttl:s expireTime:s createTime:s updateTime:s usageMetadata:x
GenerateContentLine key:s request:GenerateContentRequest metadata:x
EmbedContentLine key:s request:EmbedContentRequest metadata:x
GenerateContentItem request:GenerateContentRequest metadata:x
EmbedContentItem request:EmbedContentRequest metadata:x
CreateFileRequest file:File
File name:s displayName:s mimeType:s sizeBytes:l createTime:s updateTime:s expirationTime:s sha256Hash:y uri:s
  downloadUri:s state:e source:e error:x videoMetadata:x
RegisterFilesRequest uris:s[]
BatchUpdate name:s model:s displayName:s priority:l inputConfig:x output:x createTime:s endTime:s updateTime:s
  batchStats:x state:e webhookConfig:x
Content parts:Part[] role:s
Part text:s inlineData:Blob fileData:FileData functionCall:FunctionCall functionResponse:FunctionResponse
  executableCode:ExecutableCode codeExecutionResult:CodeExecutionResult toolCall:ToolCall toolResponse:ToolResponse
  thought:b thoughtSignature:y videoMetadata:VideoMetadata partMetadata:x mediaResolution:PartMediaResolution
  audioTranscription:Transcription mediaProcessing:e speechMetadata:SpeechMetadata documentMetadata:DocumentMetadata
  spreadsheetMetadata:SpreadsheetMetadata audioMetadata:AudioMetadata
Blob mimeType:s data:y
FileData mimeType:s fileUri:s
FunctionCall id:s name:s args:x
FunctionResponse id:s name:s response:x parts:FunctionResponsePart[] willContinue:b scheduling:e
FunctionResponsePart inlineData:Blob fileData:FileData mediaProcessing:e mediaResolution:PartMediaResolution
  videoMetadata:VideoMetadata documentMetadata:DocumentMetadata spreadsheetMetadata:SpreadsheetMetadata
  audioMetadata:AudioMetadata
ExecutableCode id:s language:e code:s
CodeExecutionResult id:s outcome:e output:s
ToolCall id:s toolType:e args:x
ToolResponse id:s toolType:e response:x
VideoMetadata startOffset:s endOffset:s fps:d contentLayers:e[]
PartMediaResolution level:e numTokens:i
Transcription text:s finished:b languageCode:s speakerLabel:s words:WordInfo[] startOffset:s endOffset:s
WordInfo word:s startOffset:s endOffset:s
SpeechMetadata speaker:s style:s
DocumentMetadata startPage:i endPage:i contentLayers:e[]
SpreadsheetMetadata visibleCells:s sheetIndex:i contentLayers:e[]
AudioMetadata startOffset:s endOffset:s
SafetySetting category:e=HarmCategory threshold:e=SafetySetting.HarmBlockThreshold
Tool functionDeclarations:FunctionDeclaration[] googleSearchRetrieval:GoogleSearchRetrieval codeExecution:Empty
  googleSearch:GoogleSearch computerUse:ComputerUse urlContext:Empty fileSearch:FileSearch googleMaps:GoogleMaps
  mcpServers:McpServer[]
FunctionDeclaration name:s description:s behavior:e parameters:Schema parametersJsonSchema:x response:Schema
  responseJsonSchema:x
Schema type:e=Type format:s title:s description:s nullable:b enum:s[] maxItems:l minItems:l properties:Schema{}
  required:s[] minProperties:l maxProperties:l minLength:l maxLength:l pattern:s example:x anyOf:Schema[]
  propertyOrdering:s[] default:x items:Schema minimum:d maximum:d
GoogleSearchRetrieval dynamicRetrievalConfig:DynamicRetrievalConfig
DynamicRetrievalConfig mode:e dynamicThreshold:f
GoogleSearch timeRangeFilter:Interval searchTypes:SearchTypes
SearchTypes webSearch:Empty imageSearch:Empty
Interval startTime:s endTime:s
ComputerUse environment:e excludedPredefinedFunctions:s[] enablePromptInjectionDetection:b disabledSafetyPolicies:e[]
FileSearch fileSearchStoreNames:s[] topK:i metadataFilter:s
GoogleMaps enableWidget:b
McpServer name:s streamableHttpTransport:StreamableHttpTransport
StreamableHttpTransport url:s headers:x timeout:s sseReadTimeout:s terminateOnClose:b
ToolConfig functionCallingConfig:FunctionCallingConfig retrievalConfig:RetrievalConfig
  includeServerSideToolInvocations:b
FunctionCallingConfig mode:e=FunctionCallingConfig.Mode allowedFunctionNames:s[]
RetrievalConfig latLng:LatLng languageCode:s
LatLng latitude:d longitude:d
GenerationConfig temperature:f topP:f topK:i candidateCount:i maxOutputTokens:i stopSequences:s[] responseLogprobs:b
  logprobs:i presencePenalty:f frequencyPenalty:f seed:i responseMimeType:s responseSchema:Schema responseJsonSchema:x
  responseModalities:e=GenerationConfig.Modality[] mediaResolution:e=GenerationConfig.MediaResolution
  speechConfig:SpeechConfig thinkingConfig:ThinkingConfig
  imageConfig:ImageConfig audioTranscriptionConfig:AudioTranscriptionConfig enableEnhancedCivicAnswers:b
  responseFormat:x translationConfig:TranslationConfig
ThinkingConfig includeThoughts:b thinkingBudget:i thinkingLevel:e=ThinkingConfig.ThinkingLevel
ImageConfig aspectRatio:s imageSize:s
SpeechConfig voiceConfig:VoiceConfig multiSpeakerVoiceConfig:MultiSpeakerVoiceConfig languageCode:s
VoiceConfig prebuiltVoiceConfig:PrebuiltVoiceConfig replicatedVoiceConfig:ReplicatedVoiceConfig voice:s
PrebuiltVoiceConfig voiceName:s
ReplicatedVoiceConfig mimeType:s voiceSampleAudio:y consentAudio:y voiceConsentSignature:VoiceConsentSignature
VoiceConsentSignature signature:s
MultiSpeakerVoiceConfig speakerVoiceConfigs:SpeakerVoiceConfig[]
SpeakerVoiceConfig speaker:s voiceConfig:VoiceConfig
AudioTranscriptionConfig languageCodes:s[] languageAuto:Empty languageHints:LanguageHints customVocabulary:s[]
  adaptationPhrases:s[] wordTimestamp:b diarization:b mode:e sourceText:s
LanguageHints languageCodes:s[]
TranslationConfig echoTargetLanguage:b targetLanguageCode:s
Empty
"""

_ENUM_TEXT: Final = """
HarmCategory HARM_CATEGORY_UNSPECIFIED HARM_CATEGORY_DEROGATORY HARM_CATEGORY_TOXICITY HARM_CATEGORY_VIOLENCE
  HARM_CATEGORY_SEXUAL HARM_CATEGORY_MEDICAL HARM_CATEGORY_DANGEROUS HARM_CATEGORY_HARASSMENT
  HARM_CATEGORY_HATE_SPEECH HARM_CATEGORY_SEXUALLY_EXPLICIT HARM_CATEGORY_DANGEROUS_CONTENT
  HARM_CATEGORY_CIVIC_INTEGRITY HARM_CATEGORY_JAILBREAK HARM_CATEGORY_IMAGE_HATE
  HARM_CATEGORY_IMAGE_DANGEROUS_CONTENT HARM_CATEGORY_IMAGE_HARASSMENT HARM_CATEGORY_IMAGE_SEXUALLY_EXPLICIT
SafetySetting.HarmBlockThreshold HARM_BLOCK_THRESHOLD_UNSPECIFIED BLOCK_LOW_AND_ABOVE BLOCK_MEDIUM_AND_ABOVE
  BLOCK_ONLY_HIGH BLOCK_NONE OFF
FunctionCallingConfig.Mode MODE_UNSPECIFIED AUTO ANY NONE VALIDATED
ThinkingConfig.ThinkingLevel THINKING_LEVEL_UNSPECIFIED MINIMAL LOW MEDIUM HIGH XHIGH
GenerationConfig.MediaResolution MEDIA_RESOLUTION_UNSPECIFIED MEDIA_RESOLUTION_LOW MEDIA_RESOLUTION_MEDIUM
  MEDIA_RESOLUTION_HIGH
GenerationConfig.Modality MODALITY_UNSPECIFIED TEXT IMAGE AUDIO VIDEO
TaskType TASK_TYPE_UNSPECIFIED RETRIEVAL_QUERY RETRIEVAL_DOCUMENT SEMANTIC_SIMILARITY CLASSIFICATION CLUSTERING
  QUESTION_ANSWERING FACT_VERIFICATION CODE_RETRIEVAL_QUERY
Type TYPE_UNSPECIFIED STRING NUMBER INTEGER BOOLEAN ARRAY OBJECT NULL
"""

# One of these at most may be set in a part.
PART_DATA: Final = [
    "text",
    "inlineData",
    "functionCall",
    "functionResponse",
    "fileData",
    "executableCode",
    "codeExecutionResult",
    "toolCall",
    "toolResponse",
]

_NUMBERS: Final = frozenset([int, float, str])
_EXACT: Final[dict[str, frozenset[type]]] = {
    "s": frozenset([str]),
    "y": frozenset([str]),
    "e": frozenset([str, int]),
    "b": frozenset([bool]),
    "i": _NUMBERS,
    "l": _NUMBERS,
    "f": _NUMBERS,
    "d": _NUMBERS,
}


_PLAIN: Final[dict[str, frozenset[type]]] = {
    "y": frozenset(),
    "i": frozenset([int]),
    "l": frozenset([int]),
    "f": frozenset([int, float]),
    "d": frozenset([int, float]),
}


class Field(NamedTuple):
    """One field.

    Attributes:
        plain: Python types of values that are right without a further look.
        types: Python types that its values, or the items of its list, surely have; empty for a message or anything.
        message: name of the message that it is, empty for any other.
        repeated: whether it is a list.
        is_map: whether it is a map of messages.
        code: the letter of its type, empty for a message.
        enum: name of the enumeration that it is, as far as its values are known.
        values: of that enumeration.
        name: in camelCase.
        snake: in snake_case, as refusals write it.
    """

    plain: frozenset[type]
    types: frozenset[type]
    message: str
    repeated: bool
    is_map: bool
    code: str
    enum: str
    values: frozenset[str]
    name: str
    snake: str


def snake(name: str) -> str:
    """Return a camelCase name in snake_case."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found[1].lower(), name)


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.replace("\n  ", " ").strip().split("\n")]


_INTS: Final = frozenset([int])
_ENUMS: Final = {name: frozenset(values) for name, *values in _lines(_ENUM_TEXT)}


def _field(entry: str) -> Field:
    name, _, kind = entry.partition(":")
    repeated, is_map = kind.endswith("[]"), kind.endswith("{}")
    bare = kind.removesuffix("[]").removesuffix("{}")
    bare, _, enum = bare.partition("=")
    message = bare if len(bare) > 1 else ""
    code = "" if message else bare
    types = _EXACT.get(code, frozenset())
    plain = _INTS if enum else types & _PLAIN.get(code, types)
    values = _ENUMS[enum] if enum else frozenset[str]()
    return Field(plain, types, message, repeated, is_map, code, enum, values, name, snake(name))


def _tables() -> dict[str, dict[str, Field]]:
    """Return the fields of each message under both of their spellings."""
    tables: dict[str, dict[str, Field]] = {}
    for name, *entries in _lines(_TEXT):
        fields = [_field(entry) for entry in entries]
        tables[name] = {field.name: field for field in fields} | {field.snake: field for field in fields}
    return tables


MESSAGES: Final = _tables()
