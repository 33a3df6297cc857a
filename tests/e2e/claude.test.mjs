import { claudeTests } from './claude.mjs';

claudeTests({ hasLiteLLM: false });
