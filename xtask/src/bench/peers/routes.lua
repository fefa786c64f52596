-- For wrk: asks for one of so many routes (the argument), each time another one, at random.
local requests = {}

function init(arguments)
    math.randomseed(4711)
    for number = 0, tonumber(arguments[1]) - 1 do
        requests[number + 1] = wrk.format("GET", string.format("/r/%05d/x", number))
    end
end

function request()
    return requests[math.random(#requests)]
end
