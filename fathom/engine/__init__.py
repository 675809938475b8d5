"""Inference: many requests at once over a paged cache, on any runner."""

from fathom.engine.conversation import Completion as Completion
from fathom.engine.defaults import GenerationDefaults as GenerationDefaults
from fathom.engine.engine import Engine as Engine
from fathom.engine.engine import Ticket as Ticket
from fathom.engine.request import EngineEvent as EngineEvent
from fathom.engine.request import Finished as Finished
from fathom.engine.request import PromptLogprobs as PromptLogprobs
from fathom.engine.request import Request as Request
from fathom.engine.request import Timings as Timings
from fathom.engine.request import TokenLogprobs as TokenLogprobs
from fathom.engine.request import Usage as Usage
from fathom.engine.runner import Runner as Runner
from fathom.engine.runner import SequenceStep as SequenceStep
from fathom.engine.sampling import SamplingParams as SamplingParams
from fathom.engine.stats import EngineLimits as EngineLimits
from fathom.engine.stats import EngineStats as EngineStats
