/** The codes of the wire in words, each with what to do where something can be done. */

export interface Meaning {
  words: string;
  hint: string;
}

/** Why batches have their sizes. */
export const BATCH_REASONS: Record<string, Meaning> = {
  all_waiting: { words: "Took all that waited", hint: "A lane was idle, so nothing had to wait for a larger batch. Usual while the lanes keep up." },
  delay_over: { words: "Waited for more rows", hint: "More rows were on the way; the longest waiting window reached the longest queue delay that the settings allow." },
  largest_batch: { words: "Largest batch", hint: "More windows waited than the largest batch takes. If most batches are like this, the lanes are at their limit." },
  cheaper_split: { words: "Smaller batches finish sooner", hint: "By the measured costs, several smaller batches take less time than one of all that waited." },
  shared_by_lanes: { words: "Shared by idle lanes", hint: "Several lanes were idle, and finish sooner if each takes a part." },
  lane_lost: { words: "Again, after a lost lane", hint: "Its lane was lost while it ran; another one ran it again." },
  half_of_failed: { words: "Half of a failed batch", hint: "A batch failed; its halves run again, until the window at fault is alone." },
};

/** What became of the rows that closed. */
export const ROW_ENDS: Record<string, Meaning> = {
  closed: { words: "Closed", hint: "All rows: one for each server and step." },
  warming: { words: "Too few rows yet", hint: "The window of the server has too few rows for a forecast." },
  due: { words: "Due", hint: "Rows that needed a forecast." },
  delivered: { words: "Delivered", hint: "The forecast was made and passed on." },
  superseded: { words: "Superseded", hint: "A newer row of the same server came first. Usual while history is sent." },
  failed: { words: "Failed", hint: "The engine could not forecast it." },
  forgotten: { words: "Forgotten", hint: "Its server was evicted or deleted." },
};

/** Why a sample, point, frame or body was not taken. */
const REFUSALS: Record<string, Meaning> = {
  no_rule: { words: "No rule uses the metric", hint: "Usual for most of what agents send. To use it, run streamd mapping check on a capture, and write a rule." },
  not_selected: { words: "Other labels than the rule wants", hint: "A rule names the metric, but not with these labels: streamd mapping check shows which." },
  no_server: { words: "No label names the server", hint: "Add the label at the agent, or to server of the rule set." },
  too_many_series: { words: "Too many series", hint: "Raise max_series, or filter at the agent." },
  too_old: { words: "Too late", hint: "Its step is final: the sender is slow, or its clock is behind." },
  too_far_ahead: { words: "From the future", hint: "The clock of the sender or of this machine is wrong." },
  invalid_sample: { words: "Not a sample", hint: "A field is missing or has the wrong type." },
  invalid_server: { words: "Not a name of a server", hint: "A name has 1 to 256 bytes of UTF-8." },
  invalid_time: { words: "Not a time", hint: "Expected epoch seconds, or RFC 3339 with an offset." },
  invalid_value: { words: "Not a number, or too large", hint: "Expected a number of magnitude below 1e30." },
  forbidden: { words: "Not allowed by the token", hint: "The token is for other servers." },
  no_capacity: { words: "No place for a new server", hint: "All windows have servers that were seen lately: raise max_servers." },
  too_many_servers: { words: "The token writes too many servers", hint: "See the limits of the token." },
  storage: { words: "State folder full", hint: "Make space on the disk of the state folder." },
  malformed: { words: "Not readable", hint: "Not JSON, MessagePack or the form of its protocol." },
  rate_limited: { words: "Limit of the token", hint: "See the limits of the token." },
};

/** The meaning of a code why something was not taken; the code itself if it is not known here. */
export function explainRefusal(code: string): Meaning {
  return REFUSALS[code] ?? { words: code, hint: "" };
}

/** The meaning of a key in one of the tables above. */
export function explain(meanings: Record<string, Meaning>, key: string): Meaning {
  return meanings[key] ?? { words: key, hint: "" };
}
