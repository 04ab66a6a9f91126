-- Ask for one path again and again. Arguments: path, and every header as name=value.

function init(arguments)
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^([%w-]+)=(.*)$")
    if name == "path" then wrk.path = value else wrk.headers[name] = value end
  end
end
