-- Ask for one path again and again. Arguments: path, numbered=yes to give each request a correlation id of its own, and
-- every header as name=value.

function init(arguments)
  local numbered = false
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^([%w-]+)=(.*)$")
    if name == "path" then wrk.path = value
    elseif name == "numbered" then numbered = true
    else wrk.headers[name] = value end
  end
  if not numbered then return end
  local before, after = wrk.format("GET"):match("^(.*\r\n)(\r\n)$")
  local number = 0
  function request()
    number = number + 1
    return before .. "X-Correlation-ID: request-" .. number .. "\r\n" .. after
  end
end
